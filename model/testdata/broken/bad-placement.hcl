service "a" {
  type = "process"
  run {
    command = ["a"]
  }
  resources {
    memory    = "lots"
    cores     = -1
    disk      = ["1GiB"]
    disk_free = "1GiB"
    block {}
  }
  constraint {
  }
  constraint {
    attribute  = "zone"
    value      = "a"
    expression = node.zone == "a"
  }
  constraint {
    attribute = "node.zone"
    value     = "a"
  }
  constraint {
    attribute = "zone"
  }
  constraint {
    attribute = "zone"
    operator  = "equals"
    value     = "a"
  }
  constraint {
    attribute = "zone"
    operator  = "="
    value     = ["a", "b"]
  }
  constraint {
    attribute = "cores"
    operator  = ">"
    value     = "many"
  }
  constraint {
    attribute = "zone"
    operator  = "is_set"
    value     = "a"
  }
  constraint {
    attribute = "zone"
    value     = []
  }
  constraint {
    expression = self.host == "x"
  }
  constraint {
    expression = "zone a"
  }
  constraint {
    expression = nodes.zone == "a" && contians(["a"], node.zone)
  }
  constraint {
    distinct_property = "zone"
    value             = 2
  }
  anti_affinity {
    services = ["a", "bb"]
  }
  anti_affinity {
  }
}

service "b" {
  type = "process"
  run {
    command = ["b"]
  }
  constraint {
    attribute = "zone"
    value     = "a"
    services  = ["a"]
  }
}

distribution {
  strategy  = "gredy"
  resource  = "memory"
  minimize  = "costs"
  sticky    = "statefull"
  move_cost = -1
  cost      = "a price"

  constraint {
    attribute = "zone"
    value     = "a"
    services  = ["aa"]
  }
}
