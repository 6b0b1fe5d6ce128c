package ingress

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

const minRSABits = 2048

// material is a secret, ready for use: bytes or a public key.
type material struct {
	bytes  []byte
	public crypto.PublicKey
}

// material turns a configured secret into a key. An empty key is refused: anyone can sign with it. The errors say
// nothing of the secret's content.
func (s *Scheme) material(secret Secret) (material, error) {
	if len(secret) == 0 {
		return material{}, errors.New("the secret is empty")
	}
	if s.Credential != nil {
		if err := s.Credential(string(secret)); err != nil {
			return material{}, err
		}
	}
	switch s.Key {
	case WhsecKeys:
		return decodedKey(base64.StdEncoding.DecodeString, strings.TrimPrefix(string(secret), "whsec_"), "base64 after whsec_")
	case HexKeys:
		return decodedKey(hex.DecodeString, string(secret), "hexadecimal")
	case Base64Keys:
		return decodedKey(base64.StdEncoding.DecodeString, string(secret), "base64")
	case SHA1Keys:
		sum := sha1.Sum(secret)
		return material{bytes: sum[:]}, nil
	case WhpkKeys:
		text, ok := strings.CutPrefix(string(secret), "whpk_")
		b, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil || len(b) != ed25519.PublicKeySize {
			return material{}, errors.New("the secret is not an Ed25519 public key in base64 after whpk_")
		}
		return material{public: ed25519.PublicKey(b)}, nil
	case PublicKeys:
		public, err := publicKey(string(secret))
		if err == nil {
			err = s.suits(public)
		}
		return material{public: public}, err
	}
	if s.Algorithm == Basic {
		if user, _, ok := strings.Cut(string(secret), ":"); !ok || user == "" {
			return material{}, errors.New("the secret is not user:password")
		}
	}
	return material{bytes: secret}, nil
}

func decodedKey(decode func(string) ([]byte, error), text, form string) (material, error) {
	b, err := decode(text)
	if err != nil || len(b) == 0 {
		return material{}, fmt.Errorf("the secret is not %s", form)
	}
	return material{bytes: b}, nil
}

// publicKey reads a public key in any of the forms that providers show one: PEM, base64 of the DER in it, and for
// Ed25519 the 32 bytes in hexadecimal or base64.
func publicKey(text string) (crypto.PublicKey, error) {
	wrong := errors.New("the secret is not a public key: PEM, base64 of one, or 32 bytes in hexadecimal")
	var der []byte
	if block, _ := pem.Decode([]byte(text)); block != nil {
		if block.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, wrong
			}
			return cert.PublicKey, nil
		}
		der = block.Bytes
	} else if b, err := hex.DecodeString(text); err == nil && len(b) == ed25519.PublicKeySize {
		return ed25519.PublicKey(b), nil
	} else if der, err = base64.StdEncoding.DecodeString(bare(text)); err != nil {
		return nil, wrong
	}
	if len(der) == ed25519.PublicKeySize {
		return ed25519.PublicKey(der), nil
	}
	if public, err := x509.ParsePKIXPublicKey(der); err == nil {
		return public, nil
	}
	if public, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return public, nil
	}
	return nil, wrong
}

// bare takes the armour and the white space from a PEM text on one line, as eBay sends it.
func bare(text string) string {
	text = strings.TrimPrefix(strings.TrimSpace(text), "-----BEGIN PUBLIC KEY-----")
	text = strings.TrimSuffix(text, "-----END PUBLIC KEY-----")
	return strings.Join(strings.Fields(text), "")
}

// suits checks that a public key is of the scheme's algorithm, and of a size that means something.
func (s *Scheme) suits(public crypto.PublicKey) error {
	algorithm := s.Algorithm
	if algorithm == JWT {
		algorithm = s.Claims.Algorithm.public()
	}
	switch k := public.(type) {
	case ed25519.PublicKey:
		if algorithm == Ed25519 {
			return nil
		}
	case *ecdsa.PublicKey:
		if algorithm == ECDSA && k.Curve == elliptic.P256() {
			return nil
		}
	case *rsa.PublicKey:
		if algorithm == RSA && k.N.BitLen() >= minRSABits {
			return nil
		}
	}
	return fmt.Errorf("the public key is a %T, or of a size, that is not the scheme's", public)
}

// hashOf returns the crypto.Hash of the scheme's digest, which RSA signatures name.
func (s *Scheme) cryptoHash() crypto.Hash {
	switch s.Digest().Size() {
	case crypto.SHA1.Size():
		return crypto.SHA1
	case crypto.SHA512.Size():
		return crypto.SHA512
	}
	return crypto.SHA256
}

// signs reports whether sig is a signature, by the holder of the key to public, of what: the message for Ed25519, its
// digest for the others.
func (s *Scheme) signs(public crypto.PublicKey, what, sig []byte) bool {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return s.Algorithm == Ed25519 && ed25519.Verify(k, what, sig)
	case *ecdsa.PublicKey:
		return s.Algorithm == ECDSA && ecdsa.VerifyASN1(k, what, sig)
	case *rsa.PublicKey:
		return s.Algorithm == RSA && rsa.VerifyPKCS1v15(k, s.cryptoHash(), what, sig) == nil
	}
	return false
}
