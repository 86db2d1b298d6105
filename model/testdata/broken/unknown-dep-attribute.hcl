service "db" {
  type = "process"
  port "sql" {}
  run { command = ["db"] }
}
service "web" {
  type       = "process"
  depends_on = { database = "db" }
  run {
    command = ["web", dep.database.hostname, dep.database.port.sq, dep.databse.host, dep.db.host, dep.database.all[0].prot]
    env = {
      PEERS = join(",", [for d in dep.database.all : "${d.hots}:${d.port.sql}"])
      HOSTS = dep.database.all[*].host
    }
  }
}
