"""Reading a live Data.fs without opening it as a storage: transactions, the tail, blob records, the index."""
