service "db" {
  type = "sqlite-database"
  resources {
    memory = "1GiB"
    disk   = "20GB"
  }
}

service "web" {
  type      = "process"
  instances = 3
  run {
    command = ["bin/web"]
  }
  resources {
    cores  = 0.5
    memory = "512MiB"
    gpus   = 1
    none   = 0
  }
  constraint {
    attribute = "arch"
    value     = "amd64"
  }
  constraint {
    attribute = "zone"
    value     = ["a", "b"]
  }
  constraint {
    attribute = "cores"
    operator  = ">="
    value     = 4
  }
  constraint {
    attribute = "modules"
    operator  = "contains"
    value     = ["process", "redis"]
  }
  constraint {
    attribute = "gpus"
    operator  = "is_set"
  }
  constraint {
    expression = (node.zone != "c" &&
      lookup(node, "rack", "") != "7")
  }
  constraint {
    distinct_property = "zone"
  }
  anti_affinity {
    services = ["db"]
  }
  anti_affinity {
    services  = ["db"]
    attribute = "rack"
  }
}

distribution {
  strategy  = "optimal"
  minimize  = "links"
  move_cost = 5
  sticky    = "stateful"
  cost      = "price"

  constraint {
    attribute = "os"
    value     = "linux"
  }
  constraint {
    services          = ["db"]
    distinct_property = "rack"
  }
}
