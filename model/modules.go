package model

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// DataAttribute is the attribute of a node with the absolute path of its data directory, which the node itself announces.
const DataAttribute = "data"

// Attributes that a node announces of itself, beside those that its operator gave it.
const (
	AttrOS       = "os"
	AttrArch     = "arch"
	AttrCores    = "cores"
	AttrMemory   = "memory"    // bytes
	AttrDisk     = "disk"      // bytes of the file system that has its data
	AttrDiskFree = "disk_free" // bytes of it that are free, roughly
	AttrModules  = "modules"   // types whose programs are there, with commas between
)

// AttrZone is the attribute of those nodes that may fail together.
const AttrZone = "zone"

// FactNames are the attributes that every node finds out itself, in order.
func FactNames() []string {
	return []string{AttrArch, AttrCores, DataAttribute, AttrDisk, AttrDiskFree, AttrMemory, AttrModules, AttrOS}
}

// TypeProcess is the type of services that are programs.
const TypeProcess = "process"

// moduleFacts is what parsing and composing must know of a type. The modules say the same; a test holds them together.
type moduleFacts struct {
	settings []string // allowed, sorted
	outputs  []output // by name
	// stateful types have managed state unless the model says otherwise; stateIn is the setting without which they have none.
	stateful bool
	stateIn  string
	ports    int  // that a service of the type has; -1: any number
	live     bool // it gives a consistent copy while it runs
	owner    bool // its files belong to a user of the service's own, where the agent is root
}

// output is a value that dependents use as dep.ALIAS.NAME: a setting, or where that is not given something else.
type output struct {
	name    string
	local   bool   // it means something on the instance's node only
	setting string // "": none
	below   string // a path in the service's state directory
	scheme  string // of the URL that is made of that path
	text    string // if there is no path; "": the service's name
}

// modules are all types; never changed.
var modules = map[string]moduleFacts{
	TypeProcess: {ports: -1, owner: true},
	"sqlite-database": {stateful: true, live: true, owner: true,
		outputs: []output{{name: "path", local: true, below: "live/database.sqlite"}}},
	"fileset": {settings: []string{"stateDirs", "targetDir"}, stateful: true, stateIn: "stateDirs", owner: true,
		outputs: []output{{name: "path", local: true, setting: "targetDir", below: "files"}}},
	"postgresql-database": {stateful: true, live: true,
		settings: []string{"postgresqlDatabase", "postgresqlPassword", "postgresqlPort", "postgresqlPrograms", "postgresqlRuntimeDir", "postgresqlUsername"},
		outputs: []output{{name: "database", setting: "postgresqlDatabase"}, {name: "port", setting: "postgresqlPort", text: "5432"},
			{name: "socket", local: true, setting: "postgresqlRuntimeDir", text: "/var/run/postgresql"},
			{name: "user", setting: "postgresqlUsername", text: "postgres"}}},
	"mysql-database": {stateful: true, live: true, settings: []string{"mysqlDatabase", "mysqlPassword", "mysqlPrograms", "mysqlSocket", "mysqlUsername"},
		outputs: []output{{name: "database", setting: "mysqlDatabase"},
			{name: "socket", local: true, setting: "mysqlSocket", text: "/run/mysqld/mysqld.sock"}}},
	"git-repository": {stateful: true, live: true, settings: []string{"gitDefaultBranch", "gitPrograms"}, owner: true,
		outputs: []output{{name: "path", local: true, below: "live"}}},
	"subversion-repository": {stateful: true, live: true, settings: []string{"subversionPrograms"}, owner: true,
		outputs: []output{{name: "path", local: true, below: "live"}, {name: "url", local: true, below: "live", scheme: "file"}}},
	"redis": {stateful: true, live: true, settings: []string{"redisPassword", "redisPrograms"}, ports: 1, owner: true},
}

// Modules names the types of services that this binary knows, in order.
func Modules() []string { return sortedKeys(modules) }

// ModuleSettings names the settings of a type, in order.
func ModuleSettings(typ string) []string { return slices.Clone(modules[typ].settings) }

// ModuleOutputs gives the outputs of a service of a type with these settings, on a node with that data directory (""
// where it is not known: then there is no output that needs it).
func ModuleOutputs(typ, system, service string, settings map[string]string, data string) map[string]string {
	out := map[string]string{}
	for _, o := range modules[typ].outputs {
		if v := o.value(system, service, settings, data); v != "" {
			out[o.name] = v
		}
	}
	return out
}

// LocalOutput says whether an output of a type holds on the instance's node only.
func LocalOutput(typ, name string) bool {
	return slices.ContainsFunc(modules[typ].outputs, func(o output) bool { return o.name == name && o.local })
}

func (o output) value(system, service string, settings map[string]string, data string) string {
	set := settings[o.setting]
	switch {
	case o.setting != "" && set != "" && o.below != "":
		return path.Clean(set)
	case o.setting != "" && set != "":
		return set
	case o.below == "":
		return cmp.Or(o.text, service)
	case data == "":
		return ""
	case o.scheme != "":
		return o.scheme + "://" + escapePath(path.Join(data, StatePath(system, service), o.below))
	}
	return path.Join(data, StatePath(system, service), o.below)
}

// StatePath is where a service's state is, below a node's data directory.
func StatePath(system, service string) string { return path.Join("state", system, service) }

// escapePath escapes what cannot stand in the path of a URL, as net/url does.
func escapePath(p string) string {
	const plain = "-_.~$&+,/:;=@"
	var b strings.Builder
	for _, c := range []byte(p) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(plain, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		const hex = "0123456789ABCDEF"
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}

func (m moduleFacts) outputNames() []string {
	out := make([]string, len(m.outputs))
	for i, o := range m.outputs {
		out[i] = o.name
	}
	return out
}

// CopiesLive says whether a service of that type gives a consistent copy of its state while it runs.
func CopiesLive(typ string) bool { return modules[typ].live }

// StateInDirectory says whether the state of a service of that type is in its state directory, always: that of a fileset
// may be elsewhere, and that of a database is its server's.
func StateInDirectory(typ string) bool { return modules[typ].owner && typ != "fileset" }
