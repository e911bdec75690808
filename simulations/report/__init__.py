"""What a comparison says, as a page, as Markdown, as a line for each client or as a picture.

``contenders`` sorts rows into problems and contenders, ``section`` gathers what they show of one problem
(statements, tables, figures); ``page``, ``markdown``, ``clients_csv`` and ``picture`` write it down.
"""
