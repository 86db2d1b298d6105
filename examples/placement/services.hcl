# A shop: what each service asks of its node. Deploy it on three nodes or more:
#
#     isonomia plan --explain --inventory ./inventory.json examples/placement

service "orders" {
  type = "sqlite-database"

  resources { # of what the node announces, or the model says it has
    memory = "64MiB"
    disk   = "1GiB"
  }
  constraint {
    attribute = "arch"
    value     = ["amd64", "arm64"]
  }
}

service "shop" {
  type      = "process"
  instances = 2

  run {
    command = ["/bin/sleep", "1000000"]
  }
  resources {
    cores  = 0.25
    memory = "64MiB"
  }
  constraint {
    distinct_property = "zone" # instances in different zones
  }
}

service "reports" {
  type        = "process"
  connects_to = ["orders"]

  run {
    command = ["/bin/sleep", "1000000"]
  }
  constraint {
    expression = node.memory >= 268435456 && node.zone != "c"
  }
  anti_affinity { # never on the node where customers wait
    services = ["shop"]
  }
}
