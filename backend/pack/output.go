package pack

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/palliumhq/pallium/backend/disk"
)

// output is the file that a writer appends to, under its temporary name.
type output struct {
	file *os.File // nil once removed or published
	name string
	buf  *bufio.Writer
	off  int64
	crc  uint32 // of the bytes written since it was last set to 0
}

func createOutput(path string) (*output, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s: %w", path, fs.ErrExist)
		}
		return nil, err
	}
	// MakeDir syncs the parents of new directories: otherwise a power failure
	// could lose the directory and the pack in it.
	if err := disk.MakeDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path+TemporarySuffix, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &output{file: f, name: f.Name(), buf: bufio.NewWriterSize(f, 256<<10)}, nil
}

func (o *output) write(b []byte) error {
	o.crc = crc32.Update(o.crc, disk.Castagnoli(), b)
	o.off += int64(len(b))
	_, err := o.buf.Write(b)
	return err
}

// publish syncs the file, runs check on it and renames it to path. The rename
// is synced too before publish returns.
func (o *output) publish(path string, check func(Source) error) error {
	if err := o.buf.Flush(); err != nil {
		return err
	}
	if err := o.file.Sync(); err != nil {
		return err
	}
	if err := o.check(check); err != nil {
		return err
	}
	err := o.file.Close()
	o.file = nil
	if err != nil {
		return errors.Join(err, os.Remove(o.name))
	}
	if err := os.Rename(o.name, path); err != nil {
		return errors.Join(err, os.Remove(o.name))
	}
	if err := disk.SyncDir(filepath.Dir(path)); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func (o *output) check(check func(Source) error) error {
	src, err := OpenFile(o.name)
	if err != nil {
		return err
	}
	return errors.Join(check(src), src.Close())
}

// remove closes and deletes the temporary file.
func (o *output) remove() error {
	if o.file == nil {
		return nil
	}
	err := errors.Join(o.file.Close(), os.Remove(o.name))
	o.file = nil
	if err != nil {
		return fmt.Errorf("remove unfinished pack: %w", err)
	}
	return nil
}

// RemoveTemporary removes unfinished packs that a crash left below dir, and
// returns their paths. It must not run concurrently with a writer. No data is
// lost: a writer's input is deleted only after the pack is complete.
func RemoveTemporary(dir string) ([]string, error) {
	var removed []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(path, Suffix+TemporarySuffix) {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		removed = append(removed, path)
		return nil
	})
	if err != nil {
		return removed, fmt.Errorf("remove unfinished packs: %w", err)
	}
	return removed, nil
}
