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

// place makes to the same file as from, or a copy of it, exclusively.
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

// copyTo copies a file to a temporary name beside another, on disk.
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

// checksum reads a file for its CRC-32C.
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

// reader ends with its context.
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

// maxChecksums is how many objects' CRCs are remembered: about 300 bytes each.
const maxChecksums = 4096

// checksums remembers the CRCs of files while they are the same files. The zero
// value is ready.
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
		delete(c.known, other) // any: what is asked for again is read again
	}
	c.known[name] = sum{of: st, crc: crc}
}

func (c *checksums) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, name)
}

// syncPath brings a file's name to disk, and the names of all directories up to
// the root: another call may have made those and not synced them yet.
func (s *Store) syncPath(path string) error {
	dirs, err := s.dirsOf(path)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		// A directory is gone only if a Delete took the object since.
		if err := disk.SyncDir(dir); err != nil && !missing(err) {
			return err
		}
	}
	return nil
}

// dirsOf lists the directories above a path, up to the root and with it. It ends
// at the file system's root at the latest.
func (s *Store) dirsOf(path string) ([]string, error) {
	var dirs []string
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
		if dir == s.root {
			return dirs, nil
		}
		if dir == filepath.Dir(dir) {
			return nil, fmt.Errorf("%s is not below the objects' directory %s", path, s.root)
		}
	}
}
