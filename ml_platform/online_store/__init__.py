"""The online store: publishing the newest features of each entity to SQL, and answering look-ups."""
