"""Ways to split rows over banks, one file each, under the names that flwr-datasets made common."""
