// page.js makes dialogs of the page's screens, and takes care of a secret that is shown:
// copying, hiding, wiping. Everything else works without it.
(() => {
	'use strict'
	const main = document.getElementById('ak-main')
	if (!main) return
	const text = main.dataset
	const version = text.version
	let dialog = null // that is open
	let opener = null // what the focus returns to

	// say puts a text into a live region that exists already: one that comes with its text
	// is not read out.
	const say = (near, words, to = '.ak-copied, .ak-did') => {
		const region = (near.closest('.ak-screen') || main).querySelector(to)
		if (!region) return
		region.hidden = false
		region.textContent = ''
		setTimeout(() => { region.textContent = words }, 50)
	}

	// --- a secret that is shown ---

	const shown = () => document.querySelector('[data-secret]')
	// must reports whether a secret would be lost if its dialog closed now.
	const must = () => {
		const s = shown()
		return s && 'shownOnce' in s.dataset && !s.dataset.saved && s.querySelector('textarea').value !== ''
	}
	const wipe = () => {
		for (const area of document.querySelectorAll('[data-secret] textarea')) {
			area.value = ''
			area.textContent = ''
			area.defaultValue = ''
		}
		for (const code of document.querySelectorAll('[data-secret] svg')) code.remove()
	}

	const keep = (screen) => {
		const box = screen.querySelector('[data-secret]')
		if (!box) return
		const area = box.querySelector('textarea')
		const secret = area.value
		area.textContent = '' // the text is a value from now on, and in no snapshot of the document
		area.defaultValue = ''
		area.value = secret
		const done = screen.querySelector('[data-done]')
		const saved = screen.querySelector('[data-saved]')
		if (saved && done) {
			saved.hidden = false
			const check = saved.querySelector('[data-saved-box]')
			done.setAttribute('aria-disabled', 'true')
			check.addEventListener('change', () => {
				box.dataset.saved = check.checked ? '1' : ''
				done.setAttribute('aria-disabled', String(!check.checked))
			})
			done.addEventListener('click', (e) => {
				if (!check.checked) {
					e.preventDefault()
					e.stopImmediatePropagation()
					check.focus()
				}
			})
		}
		if (done) done.addEventListener('click', wipe)
		const download = box.querySelector('[data-download]')
		if (download) {
			download.hidden = false
			download.addEventListener('click', () => {
				const url = URL.createObjectURL(new Blob([box.dataset.env + '=' + area.value + '\n'], { type: 'text/plain' }))
				const a = Object.assign(document.createElement('a'), { href: url, download: '.env' })
				a.click()
				setTimeout(() => URL.revokeObjectURL(url), 1000)
			})
		}
		if (box.dataset.hide) countdown(box, screen)
		area.focus()
		area.select() // Ctrl+C copies it; Chromium has no caret in a read-only area, and so begins no selection by keys
	}

	// countdown goes by the clock: a tab in the background has no ticks.
	const countdown = (box, screen) => {
		const ends = Date.now() + 1000 * Number(box.dataset.hide)
		const timer = box.querySelector('[role=timer]')
		const digits = [...text.digits]
		const seconds = (n) => text.left.replace('%n', String(n).replace(/[0-9]/g, (d) => digits[d]))
		const announced = new Set()
		const tick = () => {
			if (!box.isConnected) return
			const left = Math.max(0, Math.ceil((ends - Date.now()) / 1000))
			timer.textContent = seconds(left)
			for (const at of [30, 10]) {
				if (left <= at && !announced.has(at)) {
					announced.add(at)
					say(box, seconds(left), '[data-announced]')
				}
			}
			if (left === 0) {
				wipe()
				for (const b of box.querySelectorAll('button, textarea')) b.hidden = true
				timer.textContent = text.hidden
				say(box, text.hidden, '[data-announced]')
				screen.querySelector('[data-done]')?.focus()
				return
			}
			setTimeout(tick, 250)
		}
		tick()
		document.addEventListener('visibilitychange', tick)
	}

	addEventListener('pagehide', wipe)
	addEventListener('pageshow', (e) => { if (e.persisted) location.reload() })
	addEventListener('beforeunload', (e) => { if (must()) e.preventDefault() })

	// --- copying ---

	const copy = async (button) => {
		const from = document.getElementById(button.dataset.copy)
		const words = from.value ?? from.textContent
		try {
			await navigator.clipboard.writeText(words) // is not there without TLS
			say(button, text.copied)
			return
		} catch { /* the older way */ }
		select(from)
		let copied = false
		try { copied = document.execCommand('copy') } catch { /* and the oldest: by hand */ }
		if (copied) button.focus()
		say(button, copied ? text.copied : text.press)
	}
	const select = (el) => {
		if (el.select) { el.focus(); el.select(); return }
		const range = document.createRange()
		range.selectNodeContents(el)
		getSelection().removeAllRanges()
		getSelection().addRange(range)
	}

	// --- dialogs ---

	const close = (to) => {
		if (!dialog || must()) return
		wipe()
		const d = dialog
		dialog = null
		d.close()
		d.remove()
		if (to) location.assign(to)
		else if (opener?.isConnected) opener.focus()
	}

	const open = () => {
		const made = dialog = document.createElement('dialog')
		dialog.className = 'ak-dialog'
		dialog.addEventListener('cancel', (e) => { // the event close waits for a frame, and a tab in the background has none
			if (must()) e.preventDefault()
			else wipe()
		})
		dialog.addEventListener('close', () => {
			if (dialog !== made) return
			if (must()) { dialog.showModal(); return } // a browser without closedby closes at the second Esc
			close()
		})
		main.append(dialog)
		dialog.showModal()
	}

	// show replaces what the dialog shows by a screen.
	const show = (html) => {
		const content = new DOMParser().parseFromString(html, 'text/html').querySelector('.ak-screen')
		if (!content) return false
		if (!dialog) open()
		dialog.replaceChildren(document.importNode(content, true))
		dialog.setAttribute('closedby', content.querySelector('[data-shown-once]') ? 'none' : 'closerequest')
		dialog.setAttribute('aria-labelledby', content.getAttribute('aria-labelledby'))
		dress(dialog)
		const target = dialog.querySelector('[data-secret] textarea') || dialog.querySelector('[aria-invalid=true]') ||
			dialog.querySelector('form input:not([type=hidden]), form select, form textarea') || dialog.querySelector('h1')
		target?.focus()
		return true
	}

	const ask = async (url, options, from) => {
		let res
		try {
			res = await fetch(url, { ...options, headers: { ...options.headers, 'Apikey-Fragment': version }, credentials: 'same-origin', cache: 'no-store' })
		} catch {
			failed(from)
			return
		}
		if (res.status === 409 && res.headers.get('Apikey-Fragment') && res.headers.get('Apikey-Fragment') !== version) {
			location.reload()
			return
		}
		if (res.headers.get('Apikey-Keep') && from) { // signed out meanwhile: what was typed stays
			const said = new DOMParser().parseFromString(await res.text(), 'text/html')
			failed(from, said.querySelector('[role=alert]')?.textContent, said.querySelector('a.ak-button[target]'))
			return
		}
		if (res.redirected) { // it was done
			const to = res.url
			if (dialog) close(to)
			else location.assign(to)
			return
		}
		if (!show(await res.text())) failed(from)
	}

	// failed says why a form was not taken, by default that the server was not reached. The
	// form stays as it is, and can be sent again.
	const failed = (form, words, link) => {
		const at = form || dialog || main
		let alert = at.querySelector('.ak-unreached')
		if (!alert) {
			alert = document.createElement('p')
			alert.className = 'ak-wrong ak-unreached'
			alert.setAttribute('role', 'alert')
			at.prepend(alert)
		}
		alert.textContent = (words || text.failed) + ' '
		if (link) alert.append(document.importNode(link, true))
	}

	const send = (form, submitter) => {
		if (form.dataset.sending) return // Enter that is held down, a double click
		form.dataset.sending = '1'
		const data = new URLSearchParams(new FormData(form))
		if (submitter?.name) data.append(submitter.name, submitter.value)
		for (const b of form.querySelectorAll('button')) b.disabled = true
		ask(form.getAttribute('action'), { method: 'POST', body: data }, form).finally(() => {
			delete form.dataset.sending
			for (const b of form.querySelectorAll('button')) b.disabled = false
		})
	}

	// settle finishes what the event close has yet to do: a key may be pressed before it comes.
	const settle = () => { if (dialog && !dialog.open) close() }

	document.addEventListener('click', (e) => {
		settle()
		const button = e.target.closest('[data-copy]')
		if (button) { copy(button); return }
		const link = e.target.closest('a[href]')
		if (!link || e.defaultPrevented || e.button || e.metaKey || e.ctrlKey || e.shiftKey) return
		if (dialog?.contains(link) && 'cancel' in link.dataset) {
			e.preventDefault()
			close()
		} else if ('dialog' in link.dataset && !dialog) {
			e.preventDefault()
			opener = link
			ask(link.href, {}, null)
		}
	})
	document.addEventListener('submit', (e) => {
		const form = e.target
		if (e.defaultPrevented) return
		settle()
		if (form.method === 'get') {
			if ('dialog' in form.dataset && !dialog) {
				e.preventDefault()
				opener = e.submitter
				ask(form.action, {}, null)
			}
			return
		}
		if (dialog?.contains(form) || 'dialog' in form.dataset) {
			e.preventDefault()
			if (!dialog) opener = e.submitter
			send(form, e.submitter)
		} else if (form.dataset.sending) {
			e.preventDefault()
		} else {
			form.dataset.sending = '1'
			setTimeout(() => delete form.dataset.sending, 5000)
		}
	})

	// dress adds what a screen has only with this script.
	const dress = (root) => {
		for (const part of root.querySelectorAll('[data-shown-with]')) {
			const set = part.closest('fieldset')
			const update = () => { part.hidden = set.querySelector('input[type=radio]:checked')?.value !== part.dataset.shownWith }
			set.addEventListener('change', update)
			update()
		}
		for (const screen of root.querySelectorAll('.ak-screen')) keep(screen)
	}
	dress(document)
})()
