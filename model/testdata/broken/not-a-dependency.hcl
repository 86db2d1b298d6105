service "db" {
  type = "process"
  run { command = ["db"] }
}
service "cache" {
  type = "process"
  run { command = ["db"] }
}
service "web" {
  type            = "process"
  activates_after = ["db"]
  run {
    command = ["web", dep.db.host, dep.cache.host]
  }
}
