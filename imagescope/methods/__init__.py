"""How a query becomes a ranking: a file a method, and the steps and prompts they share."""
