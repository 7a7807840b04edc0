//go:build !linux

package wal

// Datasync implements File with fsync, where there is no fdatasync.
func (f osFile) Datasync() error { return f.Sync() }
