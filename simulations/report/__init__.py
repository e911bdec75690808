"""What a comparison says, as one page, as Markdown, as a table of clients or as a picture.

``problems`` sorts rows into problems and contenders, ``section`` says what they show of one problem
(statements, tables, figures), and ``page``, ``markdown``, ``table`` and ``picture`` write it down.
"""
