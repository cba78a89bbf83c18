"""Certificates for tests: an authority, and what it signs."""
import subprocess
from pathlib import Path

from .net import HOST

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    def __init__(self, folder, name="pannier tests"):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self.count = 0
        self.file = self.folder / "ca.pem"
        self.openssl("req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN={name}",
                     "-days", "30")

    def openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)

    def issue(self, subject, extensions=f"subjectAltName=IP:{HOST}", days=30):
        """Paths of a certificate and its key."""
        self.count += 1
        name = f"issued{self.count}"
        (self.folder / f"{name}.ext").write_text(extensions + "\n")
        self.openssl("req", *KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                     "-CAcreateserial", "-extfile", f"{name}.ext", "-days", str(days), "-out", f"{name}.pem")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def issue_client(self, subject, usage="clientAuth"):
        return self.issue(subject, f"extendedKeyUsage={usage}")
