package fleet

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	pemCert = "CERTIFICATE"
	pemKey  = "PRIVATE KEY" // PKCS #8, RFC 5958
)

// MarshalPEM gives the fleet's certificate and private key as PEM. The
// certificate is public; it is the file that every member trusts.
func (a *Authority) MarshalPEM() (cert, key []byte, err error) {
	return marshalPair(a.cert.Raw, a.key)
}

// ParseAuthority reads a fleet from the PEM of its certificate and private key.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	x, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("read fleet: %w", err)
	}
	if err := checkAuthority(x); err != nil {
		return nil, fmt.Errorf("read fleet: %w", err)
	}
	key, err := parseKey(keyPEM, x)
	if err != nil {
		return nil, fmt.Errorf("read fleet: %w", err)
	}
	return &Authority{cert: x, key: key}, nil
}

// ParseRoots reads the fleet certificates to trust from one or several PEM
// blocks.
func ParseRoots(certsPEM []byte) (*Roots, error) {
	var all []*Authority
	for rest := certsPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != pemCert {
			return nil, fmt.Errorf("read fleet certificates: a PEM block of type %q; give only the fleet's certificate, never its key", block.Type)
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read fleet certificates: %w", err)
		}
		if err := checkAuthority(x); err != nil {
			return nil, fmt.Errorf("read fleet certificates: %w", err)
		}
		all = append(all, &Authority{cert: x})
	}
	if len(all) == 0 {
		return nil, errors.New("read fleet certificates: no PEM block in it")
	}
	return NewRoots(all...), nil
}

// MarshalPEM gives the identity's certificate and private key as PEM.
func (i *Identity) MarshalPEM() (cert, key []byte, err error) {
	return marshalPair(i.Cert.DER, i.key)
}

// ParseIdentity reads an identity from the PEM of its certificate and private
// key, and checks that the certificate is the fleet's and valid at now.
func ParseIdentity(certPEM, keyPEM []byte, roots *Roots, now time.Time) (*Identity, error) {
	x, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	cert, err := roots.Verify(x.Raw, now)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	key, err := parseKey(keyPEM, x)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	return &Identity{Cert: cert, key: key}, nil
}

// LoadRoots reads the fleet certificates to trust from a file.
func LoadRoots(file string) (*Roots, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read fleet certificates: %w", err)
	}
	r, err := ParseRoots(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// LoadAuthority reads a fleet from its two files.
func LoadAuthority(certFile, keyFile string) (*Authority, error) {
	cert, key, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("read fleet: %w", err)
	}
	a, err := ParseAuthority(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", certFile, keyFile, err)
	}
	return a, nil
}

// LoadIdentity reads an identity from its two files.
func LoadIdentity(certFile, keyFile string, roots *Roots, now time.Time) (*Identity, error) {
	cert, key, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	i, err := ParseIdentity(cert, key, roots, now)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", certFile, keyFile, err)
	}
	return i, nil
}

// PEMs is what both a fleet and an identity are written from.
type PEMs interface {
	MarshalPEM() (cert, key []byte, err error)
}

// Save writes certificate and key to two new files, both readable by their owner
// only. A file that exists is never overwritten: a lost fleet key is a new fleet.
func Save(p PEMs, certFile, keyFile string) error {
	cert, key, err := p.MarshalPEM()
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	if err := WriteNew(keyFile, key); err != nil {
		return err
	}
	if err := WriteNew(certFile, cert); err != nil {
		return errors.Join(err, os.Remove(keyFile)) // half a pair is of no use
	}
	return nil
}

// WriteNew writes a secret to a new file that only its owner can read, and to disk
// before it returns. A file that exists is never overwritten.
func WriteNew(file string, b []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("save %s: it exists; move it away or choose another name", file)
	}
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("save %s: %w", file, err)
	}
	return nil
}

func loadPair(certFile, keyFile string) (cert, key []byte, err error) {
	if cert, err = os.ReadFile(certFile); err != nil {
		return nil, nil, err
	}
	if key, err = os.ReadFile(keyFile); err != nil {
		return nil, nil, err
	}
	return cert, key, nil
}

func marshalPair(der []byte, key ed25519.PrivateKey) (certPEM, keyPEM []byte, err error) {
	if key == nil {
		return nil, nil, errors.New("the private key is not here")
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: pkcs8}), nil
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemCert {
		return nil, errors.New("no PEM block of type CERTIFICATE")
	}
	return x509.ParseCertificate(block.Bytes)
}

func parseKey(b []byte, cert *x509.Certificate) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemKey {
		return nil, errors.New("no PEM block of type PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("the private key is not ed25519")
	}
	if pub, ok := cert.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("the private key is not the certificate's: are the two files a pair?")
	}
	return key, nil
}

func checkAuthority(x *x509.Certificate) error {
	if !x.IsCA {
		return fmt.Errorf("%q is not a fleet's certificate", x.Subject.CommonName)
	}
	if _, ok := x.PublicKey.(ed25519.PublicKey); !ok {
		return fmt.Errorf("the key of fleet %q is %s, want ed25519", x.Subject.CommonName, x.PublicKeyAlgorithm)
	}
	return nil
}
