package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/palliumhq/pallium/authn/cluster"
)

// protocol is the application protocol (ALPN) of connections: HTTP/2, RFC 9113.
const protocol = "h2"

// proof implements gRPC credentials for a member of the cluster: only members of the
// cluster can connect to each other.
type proof struct{ member *cluster.Member }

// ClientHandshake implements credentials.TransportCredentials.
func (p proof) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	conn, err := p.member.Client(ctx, raw, host, protocol)
	return conn, info(conn), err
}

// ServerHandshake implements credentials.TransportCredentials.
func (p proof) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, err := p.member.Server(context.Background(), raw, protocol)
	return conn, info(conn), err
}

func info(conn net.Conn) credentials.AuthInfo {
	if secured, ok := conn.(*tls.Conn); ok {
		return credentials.TLSInfo{
			State:          secured.ConnectionState(),
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}
	}
	return plain{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}
}

// plain is the AuthInfo of an unencrypted connection.
type plain struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (plain) AuthType() string { return "pallium cluster" }

// Info implements credentials.TransportCredentials.
func (proof) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "pallium cluster"}
}

// Clone implements credentials.TransportCredentials.
func (p proof) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements credentials.TransportCredentials.
func (proof) OverrideServerName(string) error {
	return errors.New("overriding the server name is not supported: it is the host that is dialed")
}
