package alertsctl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/backend/alertmanager/tenantconfig"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/gateway/cli/command"
)

const (
	// maxFile is the maximum size of a file that is read, which is also the maximum size of a request.
	maxFile = 16 << 20 // bytes
	// configName is the name of the file to which `pallium alertmanager get` writes the configuration.
	configName = "alertmanager.yml"
)

// readFile reads a file of at most maxFile bytes; - is standard input.
func readFile(sh *command.Shell, name string) (string, error) {
	in := sh.In
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, cause(err))
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", name, cause(err))
	case len(data) > maxFile:
		return "", fmt.Errorf("%s: the file has more than %d bytes", name, maxFile)
	}
	return string(data), nil
}

// cause returns the cause of a file system error, without the name of the file.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// document reads the file of a configuration and its template files. As in mimirtool, the name of a template file is
// the base name of its path.
func document(sh *command.Shell, args []string) (tenantconfig.Document, error) {
	d := tenantconfig.Document{Templates: map[string]string{}}
	if len(args) == 0 {
		return d, command.Misused("FILE is missing: name the file of the configuration, and then its template files")
	}
	var err error
	if d.Config, err = readFile(sh, args[0]); err != nil {
		return d, err
	}
	if strings.TrimSpace(d.Config) == "" {
		return d, fmt.Errorf("%s: the file is empty: it must have the fields route and receivers", args[0])
	}
	from := map[string]string{}
	for _, name := range args[1:] {
		base := filepath.Base(name)
		if other, ok := from[base]; ok {
			return d, command.Misused("the template files %s and %s have the same name, %s: rename one", other, name, base)
		}
		from[base] = name
		if d.Templates[base], err = readFile(sh, name); err != nil {
			return d, err
		}
	}
	return d, nil
}

// write writes a configuration and its template files to a directory. If a file exists with another content, it returns
// an error and writes nothing, unless overwrite is set.
func write(dir string, d tenantconfig.Document, overwrite bool) ([]string, error) {
	files := map[string]string{configName: d.Config}
	for name, text := range d.Templates {
		if name != filepath.Base(name) || name == "." || name == ".." || name == string(filepath.Separator) {
			return nil, fmt.Errorf("the template file %q has a name that cannot be written: store it with another name",
				command.Shorten(name))
		}
		if name == configName {
			return nil, fmt.Errorf("a template file has the name %s, which is that of the configuration", configName)
		}
		files[name] = text
	}
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		path := filepath.Join(dir, name)
		old, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("%s: %w", path, cause(err))
		case string(old) != files[name] && !overwrite:
			return nil, fmt.Errorf("%s exists with another content: nothing was written; -overwrite replaces it", path)
		}
	}
	for i, name := range names {
		if err := disk.ReplaceFile(filepath.Join(dir, name), []byte(files[name])); err != nil {
			return nil, fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
		}
		names[i] = filepath.Join(dir, name)
	}
	return names, nil
}

// fieldOfTemplate matches the path of a template file in the errors of a configuration.
var fieldOfTemplate = regexp.MustCompile(`template_files\["((?:[^"\\]|\\.)*)"\]`)

// inWords translates an error of a configuration. The error has paths of the document that is sent to the server; the
// result has the names of files on the command line.
func inWords(text string) string {
	text = fieldOfTemplate.ReplaceAllString(text, `template file "$1"`)
	return strings.ReplaceAll(text, "add it to template_files", "name its file on the command line, after the configuration")
}
