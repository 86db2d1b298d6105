service "cache" {
  type = "redis"
  port "main" {}
  health { tcp = true }
}
