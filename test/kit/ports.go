package kit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports are below those that the system gives to outgoing connections, which could
// take a port while the process that is to listen on it is being started again.
const lowest, highest = 10_000, 30_000

// FreePort returns a port of the loopback interface on which nobody listens and that
// no other call has returned, in this process or in another that is still running:
// a test asks for all ports of a cluster before it starts the first process, and
// tests of several packages run at once.
func FreePort() (string, error) {
	return between(lowest, highest)
}

func between(low, high int) (string, error) {
	err := errors.New("all are taken")
	for range 100 {
		port := strconv.Itoa(low + rand.IntN(high-low))
		mine, reserveErr := reserve(port)
		if reserveErr != nil {
			return "", fmt.Errorf("reserve port %s: %w", port, reserveErr)
		}
		if !mine {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

// reserve takes the lock of a port and holds it until this process ends: the file
// is not closed, and processes that this one starts do not inherit it.
func reserve(port string) (bool, error) {
	dir := filepath.Join(os.TempDir(), "pallium-test-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return false, err
	}
	fd, err := syscall.Open(filepath.Join(dir, port), syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o666)
	if err != nil {
		return false, err
	}
	err = syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return true, nil
	}
	_ = syscall.Close(fd)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return false, err
}
