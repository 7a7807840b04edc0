package wal

import "syscall"

// Datasync implements File with fdatasync, which writes the file's data and length
// but not its times. That saves a journal commit on most file systems.
func (f osFile) Datasync() error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}
