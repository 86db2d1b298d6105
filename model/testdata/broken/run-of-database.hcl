service "staff" {
  type = "sqlite-database"
  run { command = ["sqlite3"] }
}
