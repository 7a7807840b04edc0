// Package ports finds ports for the processes of tests: below those that the
// system gives to outgoing connections, which could take a port while the process
// that is to listen on it is being started again.
package ports

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

const lowest, highest = 10_000, 30_000

// Free returns a port of the loopback interface on which nobody listens.
func Free() (string, error) {
	var err error
	for range 100 {
		port := strconv.Itoa(lowest + rand.IntN(highest-lowest))
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", errors.Join(errors.New("no free port"), err)
}
