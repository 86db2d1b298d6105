service "web" {
  type    = "process"
  package = "./${secret.dir}"
  run { command = ["web"] }
}
