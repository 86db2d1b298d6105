service "db" {
  type = "process"
  run { command = ["db"] }
}
service "web" {
  type       = "process"
  depends_on = ["db"]
  run {
    command = ["web", slef.host, deps.db.host, env.HOME, db.host]
  }
}
