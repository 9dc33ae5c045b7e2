"""Format of a store: keys, arrays with checksums, a journal, a lease, a schema. No torch, no dataset."""
