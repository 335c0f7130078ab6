"""What must not be kept is replaced in words: cards, accounts, addresses, numbers of people. Values in, values out."""
