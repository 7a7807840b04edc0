package main

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// certificate is the edge's certificate, which can be exchanged while serving.
type certificate struct {
	files   TLS
	current atomic.Pointer[tls.Certificate]
}

// load reads the files; on an error the certificate stays as it was.
func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}
