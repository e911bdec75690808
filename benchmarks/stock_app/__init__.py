"""A small app of stock Flower, which ``benchmarks.stock_faults`` breaks; nothing of fedmeta is in it."""
