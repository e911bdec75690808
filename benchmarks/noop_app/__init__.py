"""An app that does nothing, to see what Flower itself costs a device; nothing of fedmeta is in it."""
