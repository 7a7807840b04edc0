package rpc

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Security is what proves to another process that this one belongs to the
// cluster: the shared secret, certificates of the cluster's own authority, or
// both. The secret itself is never sent, but what is sent could be repeated by
// who reads the network: where others can, use certificates.
type Security struct {
	token string
	tls   *tls.Config // nil without certificates
}

// Header carries the proof in requests between processes.
const Header = "X-Pallium-Cluster"

const metadataKey = "x-pallium-cluster"

// TLSFiles are the files of a process's certificate, its key, and the authority
// that signs those of all processes.
type TLSFiles struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	CAFile   string `yaml:"ca_file"`
}

// ErrNoSecurity is returned for a process of a cluster that has neither.
var ErrNoSecurity = errors.New("processes of a cluster must prove to each other who they are: set PALLIUM_CLUSTER_SECRET (or _FILE) to the same value of 32 bytes or more everywhere, or cluster.tls to certificates of one authority")

// NewSecurity makes the security of a process. One of the two must be given.
func NewSecurity(secret string, files TLSFiles) (*Security, error) {
	s := &Security{}
	if secret == "" && files == (TLSFiles{}) {
		return nil, ErrNoSecurity
	}
	if secret != "" {
		mac := hmac.New(sha256.New, []byte(secret))
		_, _ = mac.Write([]byte("pallium between processes, 1"))
		s.token = hex.EncodeToString(mac.Sum(nil))
	}
	if files == (TLSFiles{}) {
		return s, nil
	}
	if files.CertFile == "" || files.KeyFile == "" || files.CAFile == "" {
		return nil, errors.New("cluster.tls needs cert_file, key_file and ca_file")
	}
	cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cluster.tls: %w", err)
	}
	pem, err := os.ReadFile(files.CAFile)
	if err != nil {
		return nil, fmt.Errorf("cluster.tls: %w", err)
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("cluster.tls: %s has no certificate", files.CAFile)
	}
	s.tls = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
		RootCAs: authority, ClientCAs: authority, ClientAuth: tls.RequireAndVerifyClientCert}
	return s, nil
}

// TLS is the configuration of connections in either direction; nil without
// certificates.
func (s *Security) TLS() *tls.Config {
	if s.tls == nil {
		return nil
	}
	return s.tls.Clone()
}

// Stamp puts the proof into a request.
func (s *Security) Stamp(h http.Header) {
	if s.token != "" {
		h.Set(Header, s.token)
	}
}

// Require refuses requests without the proof.
func (s *Security) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.proves(r.Header.Get(Header)) {
			http.Error(w, "this listener serves processes of the cluster only", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Security) proves(token string) bool {
	return s.token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) == 1
}

// provesIn reports whether the header of a call has the proof.
func (s *Security) provesIn(md metadata.MD) bool { return s.proves(one(md, metadataKey)) }

func (s *Security) check(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if !s.provesIn(md) {
		return status.Error(codes.Unauthenticated, "the caller does not have this cluster's secret")
	}
	return nil
}

func (s *Security) serverOptions() []grpc.ServerOption {
	out := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := s.check(ctx); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := s.check(ss.Context()); err != nil {
				return err
			}
			return next(srv, ss)
		}),
	}
	if s.tls != nil {
		out = append(out, grpc.Creds(credentials.NewTLS(s.tls)))
	}
	return out
}

func (s *Security) dialOptions() []grpc.DialOption {
	out := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if s.tls != nil {
		out = []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(s.tls))}
	}
	if s.token != "" {
		out = append(out, grpc.WithPerRPCCredentials(perCall{s.token}))
	}
	return out
}

// perCall adds the proof to every call.
type perCall struct{ token string }

func (p perCall) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{metadataKey: p.token}, nil
}

func (perCall) RequireTransportSecurity() bool { return false }
