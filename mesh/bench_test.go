package mesh

import (
	"crypto/ed25519"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// benchPair is two members with a stream of protocol p between them.
func benchPair(b *testing.B, p Proto) (near, far net.Conn) {
	b.Helper()
	c := newTestCluster(b)
	x, y := c.pair(b)
	l := y.Listener(p)
	near, err := x.Dial(b.Context(), y.ID(), p)
	if err != nil {
		b.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return near, far
}

// tlsPair is the same over plain TCP and TLS 1.3: the limit to compare with.
func tlsPair(b *testing.B) (near, far net.Conn) {
	b.Helper()
	c := newTestCluster(b)
	id, err := LoadIdentity(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	chain, err := c.cert(id.Key.Public().(ed25519.PublicKey))()
	if err != nil {
		b.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: id.Key}}})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		if s, err := l.Accept(); err == nil {
			_ = s.(*tls.Conn).Handshake()
			accepted <- s
		}
	}()
	near, err = tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		b.Fatal(err)
	}
	return near, <-accepted
}

// echoTime is the time of n round trips of 100 bytes.
func echoTime(b *testing.B, near, far net.Conn, n int) time.Duration {
	go func() { _, _ = io.Copy(far, far) }()
	buf := make([]byte, 100)
	at := time.Now()
	for range n {
		if _, err := near.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(near, buf); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(at)
}

// BenchmarkRoundTrip: a request and its answer on an open stream, and how much
// longer that takes than over TCP and TLS in the same run.
func BenchmarkRoundTrip(b *testing.B) {
	near, far := benchPair(b, ProtoRPC)
	tnear, tfar := tlsPair(b)
	defer closeAll(near, far, tnear, tfar)
	b.ResetTimer()
	ours := echoTime(b, near, far, b.N)
	b.StopTimer()
	b.ReportMetric(float64(ours)/float64(echoTime(b, tnear, tfar, b.N)), "x-of-tls")
}

// BenchmarkProbe: a stream of its own for each round trip.
func BenchmarkProbe(b *testing.B) {
	c := newTestCluster(b)
	x, y := c.pair(b)
	b.ResetTimer()
	for range b.N {
		if err := x.Probe(b.Context(), y.ID()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBulk: one stream at full speed, and its share of TCP and TLS.
func BenchmarkBulk(b *testing.B) {
	near, far := benchPair(b, ProtoBlob)
	tnear, tfar := tlsPair(b)
	defer closeAll(near, far, tnear, tfar)
	b.SetBytes(1 << 20)
	b.ResetTimer()
	ours := pumpTime(b, near, far, b.N)
	b.StopTimer()
	b.ReportMetric(float64(pumpTime(b, tnear, tfar, b.N))/float64(ours), "of-tls")
}

// pumpTime is the time that n MiB take.
func pumpTime(b *testing.B, near, far net.Conn, n int) time.Duration {
	at := time.Now()
	go func() {
		buf := make([]byte, 256<<10)
		for range n * 4 {
			if _, err := near.Write(buf); err != nil {
				return
			}
		}
	}()
	if got, err := io.CopyN(io.Discard, far, int64(n)<<20); err != nil {
		b.Fatalf("%d bytes: %v", got, err)
	}
	return time.Since(at)
}

func closeAll(conns ...net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}
