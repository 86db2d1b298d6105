service {
  type = "process"
}
distribution "main" {
}
