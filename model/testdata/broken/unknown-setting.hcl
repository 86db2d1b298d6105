service "staff" {
  type     = "postgresql-database"
  settings = { postgresqlDatabse = "staff", postgresqlDatabase = "staff" }
}

service "room" {
  type     = "sqlite-database"
  settings = { file = "room.db" }
}

node "n1" {
  container "mysql-database" {
    settings = { mysqlUserName = "root" }
  }
}
