"""A headless Chromium behind chromedriver, spoken to over plain WebDriver HTTP: what the explorer's test needs of it, and no package more."""

import http.client
import json
import shutil

from process import Server, free_port, wait_until

# No sandbox, as containers cannot nest it; and nothing that would look for another host.
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"ArrowDown": "\ue015", "ArrowUp": "\ue013", "Enter": "\ue007", "Tab": "\ue004", "Escape": "\ue00c", "Backspace": "\ue003"}


class Browser:
    def __init__(self, folder, width=1280, height=800):
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        assert chromium and driver, "chromium and chromedriver are not installed"
        self.port, self.session = free_port(), None
        self.driver = Server([driver, f"--port={self.port}"], str(folder / "chromedriver.log"))
        try:
            wait_until("chromedriver", 20, self.listens)
            capabilities = {"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}, "goog:chromeOptions": {
                "binary": chromium, "args": [*FLAGS, f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]}}
            self.session = self.call("POST", "", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
            self.size(width, height)
        except BaseException:
            self.close()
            raise

    def listens(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/status")
            return json.load(connection.getresponse())["value"]["ready"]
        except OSError:
            return False

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        where = f"/session/{self.session}{path}" if self.session else "/session"
        connection.request(method, where, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        value = json.load(connection.getresponse())["value"]
        connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{path}: {value['error']}: {value['message'][:400]}")
        return value

    def close(self):
        try:
            if self.session:
                self.call("DELETE", "")
        finally:
            self.driver.kill()

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def js(self, script, *args):
        """The value of a function body that runs in the page."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def wait(self, what, script, *args, timeout=10):
        return wait_until(f"{what}: {script}", timeout, lambda: self.js(script, *args))

    def cdp(self, command, **params):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def size(self, width, height):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name):
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def keys(self, *keys):
        """Types into whatever has the focus: names of KEYS, or text."""
        pressed = [c for k in keys for c in ([KEYS[k]] if k in KEYS else k)]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": [
            {"type": kind, "value": c} for c in pressed for kind in ("keyDown", "keyUp")]}]})

    def click(self, selector):
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{found[ELEMENT]}/click", {})

    def log(self, kind):
        """What was logged since the last call: "browser" (console) or "performance" (network events)."""
        return self.call("POST", "/se/log", {"type": kind})

    def screenshot(self):
        """PNG, base64."""
        return self.call("GET", "/screenshot")
