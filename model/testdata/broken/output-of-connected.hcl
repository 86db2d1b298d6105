service "staff" {
  type = "sqlite-database"
}

service "web" {
  type        = "process"
  connects_to = { db = "staff" }
  run {
    command = ["web", dep.db.path]
  }
}
