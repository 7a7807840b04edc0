package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/palliumhq/pallium/backend/disk"
)

// minSecretBytes is the minimum length of every secret.
const minSecretBytes = 32

// secret is a secret of the process and where it is read from.
type secret struct {
	name string // environment variable; name_FILE may have the path of a file instead
	file string // file name in the data directory
	make bool   // generate the file if it is missing
}

// load returns the secret, the path of its file in the data directory (empty if the secret
// is from the environment), and whether it was generated. The value must not be logged.
func (s secret) load(dataDir string, env func(string) (string, bool)) (value, path string, made bool, err error) {
	if v, ok := env(s.name); ok {
		return s.check(v, s.name)
	}
	if p, ok := env(s.name + "_FILE"); ok {
		data, err := os.ReadFile(p)
		if err != nil {
			return "", "", false, fmt.Errorf("%s_FILE: %w", s.name, err)
		}
		return s.check(strings.TrimSpace(string(data)), p)
	}
	path = filepath.Join(dataDir, s.file)
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		value, _, _, err = s.check(strings.TrimSpace(string(data)), path)
		return value, path, false, err
	case !errors.Is(err, fs.ErrNotExist):
		return "", "", false, err
	case !s.make:
		return "", "", false, fmt.Errorf("set %s or %s_FILE: only `pallium all` generates one itself", s.name, s.name)
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	value = base64.RawURLEncoding.EncodeToString(raw)
	// API keys do not work without the pepper, so it must be on disk before the first key is
	// issued.
	if err := disk.ReplaceFile(path, []byte(value+"\n")); err != nil {
		return "", "", false, err
	}
	return value, path, true, nil
}

func (s secret) check(v, from string) (value, path string, made bool, err error) {
	if len(v) < minSecretBytes {
		return "", "", false, fmt.Errorf("the secret in %s has %d bytes, at least %d are needed; generate one with: openssl rand -base64 32",
			from, len(v), minSecretBytes)
	}
	return v, "", false, nil
}
