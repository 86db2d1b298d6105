service "web" {
  type = "proces"
  run { command = ["web"] }
}
service "db" {
  type = "oracle-database"
}
