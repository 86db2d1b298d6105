# StaffTracker: who works where. README.md draws how the services depend on each other.

# Data services: one SQLite database each, filled from the package's *.sql files at its first start.

service "rooms" {
  type    = "process"
  package = "./rooms"

  build {
    command = ["sh", "build.sh", "${out}"]
  }
  port "http" {
    assign = "private"
  }
  run {
    command = ["bin/dataservice"] # keeps its database in $STATE_DIRECTORY
    env = {
      HOST = self.host
      PORT = self.port.http
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}

service "staff" {
  type    = "process"
  package = "./staff"

  build {
    command = ["sh", "build.sh", "${out}"]
  }
  port "http" {
    assign = "private"
  }
  run {
    command = ["bin/dataservice"] # keeps its database in $STATE_DIRECTORY
    env = {
      HOST = self.host
      PORT = self.port.http
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}

service "zipcodes" {
  type    = "process"
  package = "./zipcodes"

  build {
    command = ["sh", "build.sh", "${out}"]
  }
  port "http" {
    assign = "private"
  }
  run {
    command = ["bin/dataservice"] # keeps its database in $STATE_DIRECTORY
    env = {
      HOST = self.host
      PORT = self.port.http
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}

# Web services: what the rest of the system knows about people, rooms and zip codes.

service "roomservice" {
  type       = "process"
  package    = "./roomservice"
  depends_on = { rooms = "rooms" }

  build {
    command = ["go", "build", "-ldflags=-s -w", "-o", "${out}/bin/roomservice", "."]
    env     = { GOGC = "300" } # compiles faster, in more memory
  }
  port "http" {
    assign = "private"
  }
  run {
    command = ["bin/roomservice"]
    env = {
      HOST      = self.host
      PORT      = self.port.http
      ROOMS_URL = "http://${dep.rooms.host}:${dep.rooms.port.http}"
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}

service "staffservice" {
  type       = "process"
  package    = "./staffservice"
  depends_on = { staff = "staff" }

  build {
    command = ["go", "build", "-ldflags=-s -w", "-o", "${out}/bin/staffservice", "."]
    env     = { GOGC = "300" } # compiles faster, in more memory
  }
  port "http" {
    assign = "private"
  }
  run {
    command = ["bin/staffservice"]
    env = {
      HOST      = self.host
      PORT      = self.port.http
      STAFF_URL = "http://${dep.staff.host}:${dep.staff.port.http}"
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}

service "zipcodeservice" {
  type       = "process"
  package    = "./zipcodeservice"
  depends_on = { zipcodes = "zipcodes" }

  build {
    command = ["go", "build", "-ldflags=-s -w", "-o", "${out}/bin/zipcodeservice", "."]
    env     = { GOGC = "300" } # compiles faster, in more memory
  }
  port "http" {
    assign = "private"
  }
  run {
    command = ["bin/zipcodeservice"]
    env = {
      HOST         = self.host
      PORT         = self.port.http
      ZIPCODES_URL = "http://${dep.zipcodes.host}:${dep.zipcodes.port.http}"
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}

# The web application joins them into pages. Change VERSION to see an upgrade: it and the proxy restart, nothing else.

service "stafftracker" {
  type       = "process"
  package    = "./stafftracker"
  depends_on = { staffservice = "staffservice", roomservice = "roomservice", zipcodeservice = "zipcodeservice" }

  build {
    command = ["go", "build", "-ldflags=-s -w", "-o", "${out}/bin/stafftracker", "."]
    env     = { GOGC = "300" } # compiles faster, in more memory
  }
  port "http" {
    assign = "private"
  }
  run {
    command = ["bin/stafftracker"]
    env = {
      HOST               = self.host
      PORT               = self.port.http
      VERSION            = "1"
      STAFFSERVICE_URL   = "http://${dep.staffservice.host}:${dep.staffservice.port.http}"
      ROOMSERVICE_URL    = "http://${dep.roomservice.host}:${dep.roomservice.port.http}"
      ZIPCODESERVICE_URL = "http://${dep.zipcodeservice.host}:${dep.zipcodeservice.port.http}"
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}

# The proxy is the address for visitors.

service "proxy" {
  type       = "process"
  package    = "./proxy"
  depends_on = { stafftracker = "stafftracker" }

  build {
    command = ["go", "build", "-ldflags=-s -w", "-o", "${out}/bin/proxy", "."]
    env     = { GOGC = "300" } # compiles faster, in more memory
  }
  port "http" {
    assign = "shared" # one number in the whole network, because visitors remember it
  }
  run {
    command = ["bin/proxy"]
    env = {
      HOST             = self.host
      PORT             = self.port.http
      STAFFTRACKER_URL = "http://${dep.stafftracker.host}:${dep.stafftracker.port.http}"
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}
