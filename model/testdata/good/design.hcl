service "staffservice" {
  type        = "process"
  package     = "./staffservice"              # a directory; `build` may produce it
  depends_on  = { staff = "staff" }           # order and address; connects_to: address only; activates_after: order only

  build {
    command = ["go", "build", "-o", "${out}/bin/staffservice", "."]
  }
  port "http" {
    assign = "private"                        # private | shared | a number
  }
  run {
    command = ["bin/staffservice"]
    env = {
      HOST     = self.host
      PORT     = self.port.http
      STAFF_DB = dep.staff.path
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}

service "staff" {
  type    = "sqlite-database"
  package = "./staff"
  state {
    managed = true
    copies  = 2
    every   = "15m"
    keep    = 20
  }
}

node "m1" {
  properties = { zone = "a" }
  container "postgresql-database" {
    settings = { postgresqlUsername = "postgres" }
  }
}

ids "ports" {
  private = "8000-8999"
  shared  = "3000-3999"
}

distribution {
  strategy = "spread"
  pin      = { staff = ["m2"] }
}
