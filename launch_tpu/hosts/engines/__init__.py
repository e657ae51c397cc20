"""One module for each way to get hosts, with the functions `plan`, `status` and `reap`."""
