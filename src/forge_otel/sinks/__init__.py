"""Where finished records are stored: the archive of artifacts (`files/`, `s3/`) and the database (`sql`).

A sink stores the batch that it is given or raises; retries, order and dead letters are the outbox's job (`outbox/`).
"""
