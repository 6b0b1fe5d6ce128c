"""Makes a root and the certificates that it signs for SNS and PayPal: certificates.py DIR."""

import datetime
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

out = pathlib.Path(sys.argv[1])


def name(common):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def certificate(common, key, issuer, issuer_key, ca):
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2025, 1, 1))
        .not_valid_after(datetime.datetime(2045, 1, 1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(common)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


root_key = rsa.generate_private_key(65537, 2048)
root = certificate("Penstock test root", root_key, "Penstock test root", root_key, True)
(out / "root.pem").write_bytes(root)
for file, common in {"sns": "sns.amazonaws.com", "paypal": "messageverificationcerts.paypal.com"}.items():
    key = rsa.generate_private_key(65537, 2048)
    (out / f"{file}.pem").write_bytes(certificate(common, key, "Penstock test root", root_key, False))
    (out / f"{file}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
