# A server, a proxy whose door can be closed for an upgrade, and a client that notices nothing. See README.md.

service "hello-world-server" {
  type    = "process"
  package = "./hello-world-server"

  build {
    command = ["go", "build", "-ldflags=-s -w", "-o", "${out}/bin/hello-world-server", "."]
  }
  port "tcp" {
    assign = "private"
  }
  run {
    command = ["bin/hello-world-server"]
    env = {
      HOST     = self.host
      PORT     = self.port.tcp
      GREETING = "Hello world!"
    }
  }
  health {
    tcp  = true
    port = "tcp"
  }
}

# connects_to: the proxy is told where the server is, but does not restart with it. It waits while the server is away.
service "tcp-proxy" {
  type        = "process"
  package     = "./tcp-proxy"
  connects_to = { server = "hello-world-server" }

  build {
    command = ["go", "build", "-ldflags=-s -w", "-o", "${out}/bin/tcp-proxy", "."]
  }
  port "tcp" {
    assign = "shared"
  }
  run {
    command = ["bin/tcp-proxy", "serve"]
    env = {
      HOST        = self.host
      PORT        = self.port.tcp
      SERVER_HOST = dep.server.host
      SERVER_PORT = dep.server.port.tcp
    }
  }
}

# The client asks for a server and is given the proxy: it does not know the difference.
service "hello-world-client" {
  type       = "process"
  package    = "./hello-world-client"
  depends_on = { hello_world_server = "tcp-proxy" }

  build {
    command = ["go", "build", "-ldflags=-s -w", "-o", "${out}/bin/hello-world-client", "."]
  }
  run {
    command = ["bin/hello-world-client"]
    env = {
      SERVER_HOST = dep.hello_world_server.host
      SERVER_PORT = dep.hello_world_server.port.tcp
    }
  }
}
