"""Looking after results and stores: clean, doctor."""
