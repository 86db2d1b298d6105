service "staff" {
  type      = "sqlite-database"
  instances = "all"
}
