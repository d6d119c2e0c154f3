"""What stands between the network and a route: limits, rights, names of requests, errors, logs."""
