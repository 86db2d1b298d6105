package process

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func tempDir(in activate.Instance) string { return filepath.Join(in.RunDir, "tmp") }

// environ is the environment of the instance, sorted, but for the keeper's mark. notify is the path of its notify
// socket; "": it has none.
func environ(in activate.Instance, id identity, notify string) ([]string, error) {
	env := map[string]string{
		"PATH": defaultPath, "HOME": id.home, "USER": id.name, "LANG": "C.UTF-8",
		"TMPDIR": tempDir(in),
	}
	for name, v := range in.Spec.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(v, 0) {
			return nil, fmt.Errorf("environment variable %q: not a name or value that a program can have", name)
		}
		env[name] = v
	}
	env["STATE_DIRECTORY"] = in.StateDir
	env["ISONOMIA_SERVICE"] = in.Service
	env["ISONOMIA_NODE"] = in.Node
	env["ISONOMIA_EPOCH"] = strconv.FormatUint(in.Epoch, 10)
	delete(env, "ISONOMIA_INSTANCE")
	delete(env, "NOTIFY_SOCKET")
	if notify != "" {
		env["NOTIFY_SOCKET"] = notify
	}
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list, nil
}

// lookup returns the value of name in an environment.
func lookup(env []string, name string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}
