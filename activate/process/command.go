package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
)

// resolve finds the program of argv: as a path in the package, as it is if absolute, or in the PATH of env.
func resolve(pkg string, argv, env []string) ([]string, error) {
	if len(argv) == 0 || argv[0] == "" {
		return nil, &activate.CommandError{Where: "the spec", Reason: "empty"}
	}
	name := argv[0]
	path, err := name, error(nil)
	switch {
	case filepath.IsAbs(name):
		err = executable(name, name, filepath.Dir(name))
	case strings.Contains(name, "/"):
		if !filepath.IsLocal(name) {
			return nil, &activate.CommandError{Command: name, Where: "package " + pkg, Reason: "leads out"}
		}
		path = filepath.Join(pkg, name)
		err = executable(path, name, "package "+pkg)
	default:
		path, err = search(name, lookup(env, "PATH"))
	}
	if err != nil {
		return nil, err
	}
	return append([]string{path}, argv[1:]...), nil
}

// search looks for a program in the directories of a PATH; relative ones are passed over.
func search(name, list string) (string, error) {
	var reason error = &activate.CommandError{Command: name, Where: "PATH " + list, Reason: "not found"}
	for _, dir := range filepath.SplitList(list) {
		if !filepath.IsAbs(dir) {
			continue
		}
		path := filepath.Join(dir, name)
		err := executable(path, name, "PATH "+list)
		if err == nil {
			return path, nil
		}
		if _, missing := os.Stat(path); missing == nil {
			reason = err
		}
	}
	return "", reason
}

// executable says what is wrong with the program at path. Whether the instance's user may run it is seen when it
// does.
func executable(path, name, where string) error {
	fi, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return &activate.CommandError{Command: name, Where: where, Reason: "not found"}
	case err != nil:
		return fmt.Errorf("command %q: %w", name, err)
	case !fi.Mode().IsRegular():
		return &activate.CommandError{Command: name, Where: where, Reason: "not a file"}
	case fi.Mode().Perm()&0o111 == 0:
		return &activate.CommandError{Command: name, Where: where, Reason: "not executable"}
	}
	return nil
}

// workDir is the instance's working directory.
func workDir(in activate.Instance) string {
	if filepath.IsAbs(in.Spec.Dir) {
		return in.Spec.Dir
	}
	return filepath.Join(in.Package, in.Spec.Dir)
}
