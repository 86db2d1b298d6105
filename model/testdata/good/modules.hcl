service "staff" {
  type    = "sqlite-database"
  package = "./staff"
}

service "papers" {
  type     = "fileset"
  settings = { stateDirs = "in out" }
}

service "site" {
  type      = "fileset"
  instances = "all"
}

service "accounts" {
  type     = "postgresql-database"
  settings = { postgresqlPort = dep.server.port.sql, postgresqlRuntimeDir = "/srv/${self.service}" }
  depends_on = ["server"]
}

service "server" {
  type = "process"
  port "sql" {}
  run { command = ["bin/server"] }
}

service "cache" {
  type = "redis"
  port "main" {}
}

service "web" {
  type        = "process"
  depends_on  = ["staff", "accounts", "papers"]
  connects_to = ["cache"]
  run {
    command = ["web", dep.staff.path, dep.accounts.socket, dep.accounts.database, dep.cache.port.main, dep.papers.all[0].path]
  }
}
