package dir

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/progress"
)

// place creates the file to as a hard link to from or as a copy of it. It fails if to exists.
func (s *Store) place(ctx context.Context, from, to string, crc uint32) error {
	err := os.Chtimes(from, time.Time{}, time.Now())
	if err == nil {
		err = s.link(from, to)
	}
	if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	tmp, err := copyTo(ctx, from, to, crc)
	if err != nil {
		return err
	}
	return errors.Join(s.link(tmp, to), os.Remove(tmp))
}

// copyTo copies a file to a temporary file in the directory of to, and syncs it. It returns
// the path of the temporary file.
func copyTo(ctx context.Context, from, to string, crc uint32) (string, error) {
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), "*"+temporary)
	if err != nil {
		return "", err
	}
	h := crc32.New(disk.Castagnoli())
	_, err = io.Copy(io.MultiWriter(out, h), reader{ctx, in})
	if err == nil && h.Sum32() != crc {
		err = fmt.Errorf("%w: the file changed while it was copied", objects.ErrInvalid)
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return "", errors.Join(err, os.Remove(out.Name()))
	}
	return out.Name(), nil
}

// checksum returns the CRC-32C of a file.
func checksum(ctx context.Context, path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h := crc32.New(disk.Castagnoli())
	_, err = io.Copy(h, reader{ctx, f})
	return h.Sum32(), err
}

// reader is a reader that fails when its context is done, and reports progress.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	progress.Step(r.ctx)
	return r.Reader.Read(b)
}

// maxChecksums is the number of CRCs that are remembered, of about 300 bytes each.
const maxChecksums = 4096

// checksums remembers the CRCs of files as long as the files are unchanged. The zero value is
// ready to use.
type checksums struct {
	mu    sync.Mutex
	known map[string]sum
}

type sum struct {
	of  fs.FileInfo
	crc uint32
}

func (c *checksums) recall(name string, st fs.FileInfo) (uint32, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[name]
	if !ok || !os.SameFile(k.of, st) || k.of.Size() != st.Size() || !k.of.ModTime().Equal(st.ModTime()) {
		return 0, false
	}
	return k.crc, true
}

func (c *checksums) remember(name string, st fs.FileInfo, crc uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[string]sum{}
	}
	for other := range c.known {
		if len(c.known) < maxChecksums {
			break
		}
		delete(c.known, other) // any entry: its file is read again when needed
	}
	c.known[name] = sum{of: st, crc: crc}
}

func (c *checksums) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, name)
}

// syncPath syncs all directories from the file's directory up to the root: another call may have
// created some of them and not synced them yet.
func (s *Store) syncPath(path string) error {
	dirs, err := s.dirsOf(path)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		// A directory is missing only if a Delete has removed the object.
		if err := disk.SyncDir(dir); err != nil && !missing(err) {
			return err
		}
	}
	return nil
}

// dirsOf returns the directories above a path, up to and including the root. It returns an
// error if the path is not under the root.
func (s *Store) dirsOf(path string) ([]string, error) {
	var dirs []string
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
		if dir == s.root {
			return dirs, nil
		}
		if dir == filepath.Dir(dir) {
			return nil, fmt.Errorf("%s is not in the object directory %s", path, s.root)
		}
	}
}
