service "staff" {
  type = "sqlite-database"
}

service "web" {
  type       = "process"
  depends_on = { db = "staff" }
  run {
    command = ["web", dep.db.pth, dep.db.database]
  }
}
