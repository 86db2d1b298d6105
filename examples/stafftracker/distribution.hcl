# All members of the cluster are used, and the services spread over them.
distribution {
  strategy = "spread"
}
