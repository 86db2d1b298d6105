service "staff" {
  type = "postgresql-database"
  port "sql" { assign = 5432 }
}

service "cache" {
  type = "redis"
}

service "queue" {
  type = "redis"
  port "main" {}
  port "more" {}
}
